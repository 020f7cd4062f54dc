"""The graph in Kubeflow's own words, and how its tasks are placed and hardened."""
