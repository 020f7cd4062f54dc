"""Every setting of a run: one pydantic model with a section a stage, loaded from YAML presets, files and `--set`."""

from lorapar.config.adapter import AdapterConfig, PartitionConfig, ScoreConfig, lora_slot
from lorapar.config.base import SYSTEMS, Comparison
from lorapar.config.checkpoint import CheckpointConfig
from lorapar.config.data import ColumnMapping, DataConfig, TaskMixConfig
from lorapar.config.evaluation import BenchmarkConfig, EvaluateConfig, MeasureConfig
from lorapar.config.execution import ExecuteConfig
from lorapar.config.load import (
    apply_override,
    checked_again,
    dump_changed,
    dump_config,
    load_config,
    parse_settings,
    preset_names,
    preset_summary,
    preset_text,
    validate_settings,
)
from lorapar.config.model import ModelConfig, PromptConfig
from lorapar.config.registry import GateConfig, PublishConfig, RegistryConfig
from lorapar.config.report import ReportConfig
from lorapar.config.rewards import JudgeConfig, RewardConfig, RewardModelConfig
from lorapar.config.rollouts import EngineOptions, RolloutServer, ServerOptions
from lorapar.config.run import RunConfig
from lorapar.config.store import StoreConfig
from lorapar.config.systems import SystemConfig
from lorapar.config.tags import TagsConfig
from lorapar.config.training import RlConfig, RowFilter, SftConfig
from lorapar.config.voting import (
    ConnectionOptions,
    EditsConfig,
    EndpointOptions,
    TeacherConfig,
    TeacherTemplate,
    VllmOptions,
    VotingConfig,
)

__all__ = [
    "SYSTEMS",
    "AdapterConfig",
    "BenchmarkConfig",
    "CheckpointConfig",
    "ColumnMapping",
    "Comparison",
    "ConnectionOptions",
    "DataConfig",
    "EditsConfig",
    "EndpointOptions",
    "EngineOptions",
    "EvaluateConfig",
    "ExecuteConfig",
    "GateConfig",
    "JudgeConfig",
    "MeasureConfig",
    "ModelConfig",
    "PartitionConfig",
    "PromptConfig",
    "PublishConfig",
    "RegistryConfig",
    "ReportConfig",
    "RewardConfig",
    "RewardModelConfig",
    "RlConfig",
    "RolloutServer",
    "RowFilter",
    "RunConfig",
    "ScoreConfig",
    "ServerOptions",
    "SftConfig",
    "StoreConfig",
    "SystemConfig",
    "TagsConfig",
    "TaskMixConfig",
    "TeacherConfig",
    "TeacherTemplate",
    "VllmOptions",
    "VotingConfig",
    "apply_override",
    "checked_again",
    "dump_changed",
    "dump_config",
    "load_config",
    "lora_slot",
    "parse_settings",
    "preset_names",
    "preset_summary",
    "preset_text",
    "validate_settings",
]
