"""Engines: from a checkpoint's weights and windows of tokens to matches. Only here are torch and vLLM."""

from memoserve.engines.child import cores_of
from memoserve.engines.diagnosis import Diagnosis, gpus, try_import
from memoserve.engines.engine import Engine, Forward, NotFinite
from memoserve.engines.matches import concatenate, matches_of
from memoserve.engines.process import EngineProcess, ForwardProcess
from memoserve.engines.registry import diagnose, engine_names, known_engine, require
from memoserve.engines.settings import EngineSettings, Mode
from memoserve.engines.vllm.heads import unsupported_head_size
from memoserve.engines.vllm.tuning import tune
from memoserve.engines.weights.config_identity import config_identity
from memoserve.engines.weights.local import DTYPES, LocalWeights, fetch_weights

__all__ = [
    "DTYPES",
    "Diagnosis",
    "Engine",
    "EngineProcess",
    "EngineSettings",
    "Forward",
    "ForwardProcess",
    "LocalWeights",
    "Mode",
    "NotFinite",
    "concatenate",
    "config_identity",
    "cores_of",
    "diagnose",
    "engine_names",
    "fetch_weights",
    "gpus",
    "known_engine",
    "matches_of",
    "require",
    "try_import",
    "tune",
    "unsupported_head_size",
]
