"""Images: listed in folders, stored in betons, cropped and decoded into batches."""
