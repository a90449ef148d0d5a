"""Turn image files into predictions or features, in rows and pictures."""

from effnet_zoo.predict.prediction import Embedding, Guess, Prediction, embed, predict

__all__ = ["Embedding", "Guess", "Prediction", "embed", "predict"]
