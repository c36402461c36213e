"""What a training asks of the machine: a device, other processes, memory and time, and a folder that is its own."""
