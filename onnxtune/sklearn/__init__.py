"""scikit-learn's face: estimators that are fitted, exported and tuned, and run as ONNX."""

from onnxtune.sklearn.classifier import TunedClassifier
from onnxtune.sklearn.regressor import TunedRegressor
from onnxtune.sklearn.search import search_space
from onnxtune.sklearn.transformer import TunedTransformer

__all__ = ["TunedClassifier", "TunedRegressor", "TunedTransformer", "search_space"]
