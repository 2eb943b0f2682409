"""Images: listed in folders, written to betons, cropped and decoded into batches; lists of samples."""
