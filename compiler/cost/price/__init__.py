"""What work costs on a machine with a calibration."""
