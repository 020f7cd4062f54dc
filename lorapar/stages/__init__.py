"""One file a stage: read inputs, call one room below, write outputs and metrics."""
