"""Codecs of FFmpeg through PyAV, packet by packet in memory."""

from typing import Any, NamedTuple

import numpy as np

from anemone.data.audio import Signal
from anemone.errors import DataError


class Stream(NamedTuple):
    """A codec of FFmpeg.

    Attributes:
        encoder: its name.
        decoder: its name.
        delay: samples that both put before, measured with FFmpeg 8.
        frame: samples that the encoder takes at a time where it does not say.
        choose: whether kbit/s are chosen.
    """

    encoder: str
    decoder: str
    delay: int
    frame: int = 320
    choose: bool = True


STREAMS = {
    "amr_nb": Stream("libopencore_amrnb", "amrnb", 40),
    "g722": Stream("g722", "g722", 22, choose=False),
    "g723": Stream("g723_1", "g723_1", 60),
    "aac": Stream("aac", "aac", 1024),
}


def round_trip(audio: Signal, rate: int, *, stream: Stream, kbps: float) -> Signal:
    """Returns samples coded and decoded, the codec's delay taken out.

    Raises:
        DataError: PyAV is not installed, or FFmpeg refuses the settings.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError(f"the codec {stream.encoder} needs PyAV: pip install 'anemone[codecs]'.") from error
    try:
        encoder: Any = av.CodecContext.create(stream.encoder, "w")
        encoder.sample_rate, encoder.layout = rate, "mono"
        encoder.format = "fltp" if stream.encoder == "aac" else "s16"
        if stream.choose:
            encoder.bit_rate = round(1000 * kbps)
        encoder.open()
        decoder: Any = av.CodecContext.create(stream.decoder, "r")
        decoder.sample_rate, decoder.layout = rate, "mono"
        decoder.extradata = encoder.extradata
        decoded = _through(audio, encoder, decoder, encoder.frame_size or stream.frame)
    except av.FFmpegError as error:
        raise DataError(
            f"{stream.encoder} cannot code {rate} samples per second at {kbps:g} kbit/s: {error}"
        ) from error
    return decoded[stream.delay :]


def _through(audio: Signal, encoder: Any, decoder: Any, size: int) -> Signal:
    """Samples in frames of ``size``, the last one filled up with zeros, through both."""
    import av

    floats = encoder.format.name == "fltp"
    padded = np.pad(audio, (0, -len(audio) % size + 2 * size))  # what is late comes out too
    samples: Any = padded if floats else (np.clip(padded, -1, 1) * 32767).astype(np.int16)
    parts = []
    frames = [*np.split(samples, len(samples) // size), None]
    for i, piece in enumerate(frames):
        frame = None
        if piece is not None:
            frame = av.AudioFrame.from_ndarray(piece[None], format=encoder.format.name, layout="mono")
            frame.sample_rate, frame.pts = encoder.sample_rate, i * size
        for packet in encoder.encode(frame):
            parts += [out.to_ndarray()[0] for out in decoder.decode(packet)]
    parts += [out.to_ndarray()[0] for out in decoder.decode(None)]
    joined = np.concatenate(parts)
    return joined.astype(np.float32) / np.float32(1 if joined.dtype.kind == "f" else 32768)
