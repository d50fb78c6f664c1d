"""What a JPEG stream says of itself, before a decoder takes memory for it: in files, and in the frames of a DICOM.

Marker bytes occur in no pixels: where those hold the byte FF, another follows it that no marker has (ITU T.81, B.1.1.5,
and T.87, A.1, for JPEG-LS).
"""

# SOF0 to SOF15, without the three numbers in between that mean something else, and SOF55 of JPEG-LS.
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_MOST_LINES = 65535


def read_jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """(height, width) of a stream's frame header (ITU T.81, B.2.2), None without one; a height said later is 65535."""
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _FRAME_HEADERS:
            height, width = (int.from_bytes(stream[at + part:at + part + 2], "big") for part in (5, 7))
            return height or _MOST_LINES, width
        at += 1 if stream[at + 1] == 0xFF else 2 + int.from_bytes(stream[at + 2:at + 4], "big")
    return None


def is_whole_jpeg(stream: bytes) -> bool:
    """Whether a stream ends after its pixels. Of one that was cut decoders make up the rest, and say nothing."""
    return stream.rfind(_END_OF_IMAGE) > stream.rfind(_START_OF_SCAN)
