"""Which classifier each kind of router stands on. Classifiers are imported only when one is made."""

import importlib
from typing import cast

from moe_ray.routing.classifier import TextClassifier

CLASSIFIERS = {
    "transformer": "moe_ray.routing.transformer:TransformerClassifier",
    "tfidf": "moe_ray.routing.tfidf:TfidfClassifier",
    "embedding": "moe_ray.routing.embedding:EmbeddingClassifier",
}


def classifier_class(kind: str) -> type[TextClassifier]:
    """The classifier of `kind`, a key of `CLASSIFIERS`."""
    module_name, _, class_name = CLASSIFIERS[kind].partition(":")
    return cast(type[TextClassifier], getattr(importlib.import_module(module_name), class_name))
