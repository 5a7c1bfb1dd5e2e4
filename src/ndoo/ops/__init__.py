"""What the people on call see: metrics, probes, logs."""
