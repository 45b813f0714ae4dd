"""Checkpoints: a run's weights and states in a folder of safetensors files and a manifest, whole or not there.

saved = save(folder, RunPoint(...), shards, executor)     # FOLDER/step-00000020/, when it is on the disk
found = Checkpoint.latest(folder)                       # E0770 where there is none that is whole
executor = Emulator(program, initial=found.arrays())    # E0771 where a byte is another than was written
"""
