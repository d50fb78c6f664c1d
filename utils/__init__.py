"""What every stage shares and no stage owns: arguments, files, checkpoints, metrics, ranks, sampling."""
