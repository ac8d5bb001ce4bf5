"""What every room needs and none owns: errors, files, hashes, statistics, hooks, processes, modules held still."""
