"""Engines: from a checkpoint's weights and windows of tokens to matches. Only here are torch and vLLM."""

from memoserve.engines.config_identity import config_identity
from memoserve.engines.diagnosis import Diagnosis, diagnose, gpus, require, try_import
from memoserve.engines.eager_forward import Forward
from memoserve.engines.heads import unsupported_head_size
from memoserve.engines.matches import concatenate, matches_of
from memoserve.engines.process import EngineProcess, cores_of
from memoserve.engines.settings import EngineName, EngineSettings, Mode
from memoserve.engines.tuning import tune
from memoserve.engines.weights import DTYPES, LocalWeights, fetch_weights

__all__ = [
    "DTYPES",
    "Diagnosis",
    "EngineName",
    "EngineProcess",
    "EngineSettings",
    "Forward",
    "LocalWeights",
    "Mode",
    "concatenate",
    "config_identity",
    "cores_of",
    "diagnose",
    "fetch_weights",
    "gpus",
    "matches_of",
    "require",
    "try_import",
    "tune",
    "unsupported_head_size",
]
