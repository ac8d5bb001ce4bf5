"""What every room needs and none owns: errors, files, hashes, processes, modules held still."""
