"""scikit-learn's face: tuned estimators, and tuned numbers back in fitted pipelines."""

from onnxtune.sklearn.classifier import TunedClassifier
from onnxtune.sklearn.regressor import TunedRegressor
from onnxtune.sklearn.search import search_space
from onnxtune.sklearn.transformer import TunedTransformer
from onnxtune.sklearn.written_pipeline import write_back

__all__ = ["TunedClassifier", "TunedRegressor", "TunedTransformer", "search_space", "write_back"]
