"""Rules of a device's memory, shared by lowering, prices and executors: what actions hold, peaks, offsets."""
