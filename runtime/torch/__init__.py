"""The engine on PyTorch: kernels and arrays of a device, messages by `torch.distributed`, one process per device.

`backend.Torch` computes, `network.TorchNetwork` reaches the other processes, `executor.TorchExecutor` runs a program on
all of them. Importing this package does not import torch; its modules do.
"""
