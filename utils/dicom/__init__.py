"""The results of a frame as DICOM files: Segmentation and Structured Report."""
