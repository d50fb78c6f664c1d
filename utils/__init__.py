"""What scripts share. Here: what every stage needs and none owns, such as arguments, files and checkpoints.
In packages: `ranks`; `segments`, `obstructions` and `lumens` of phases 2, 3 and 4; `view_impact`, `reports`, `dicom`."""
