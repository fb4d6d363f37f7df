"""The published layout of CIFAR-10's binary version."""

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
FILES = [*TRAIN_FILES, "test_batch.bin"]
RECORD_BYTES = 1 + 3072
FILE_BYTES = 30_730_000
