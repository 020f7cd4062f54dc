"""Tuning with masks: SFT on System 1 and GRPO on System 2, by TRL's own trainers.

Nothing is imported here, so that `lorapar.training.rewards` can be used where torch is not installed.
"""
