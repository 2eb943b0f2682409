"""What all steps share: atomic files, run directories, locks, the command line, progress, cores."""
