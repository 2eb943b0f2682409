"""What every step shares: whole files, run directories, the command line, progress, cores."""
