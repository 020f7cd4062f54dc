"""lorapar: fine-tune language models the LoRA-PAR way, from a laptop to a Kubeflow cluster."""

__version__ = "0.1.0"
