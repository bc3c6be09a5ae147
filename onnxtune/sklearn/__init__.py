"""scikit-learn's face: estimators that are fitted, exported and tuned, and run as ONNX."""

from onnxtune.sklearn.classifier import TunedClassifier
from onnxtune.sklearn.regressor import TunedRegressor
from onnxtune.sklearn.search import search_space

__all__ = ["TunedClassifier", "TunedRegressor", "search_space"]
