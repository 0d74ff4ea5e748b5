"""Label Studio: its API, its labeling configs and regions, the ML backend, and the workflows around a project."""
