"""Arrays in a zip as NumPy writes them, read without trusting it: no pickle, no size taken on faith."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backflip.exchange.bundle import ExchangeError
from backflip.segments import Array

MOST_BYTES = 2**30
"""Of one array that is read as a whole."""
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What Python raises where a zip or an array in it is not what it says."""


@dataclass(frozen=True)
class Header:
    """What an array says about itself."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one of its rows."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))


class Npz:
    """An .npz that is open for reading."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def header(self, name: str) -> Header:
        """Type and shape of an array.

        Raises:
            ExchangeError: there is no such array, or it is none that we read.
        """
        with self._member(name) as file:
            return self._header(name, file)

    def rows(self, name: str, count: int) -> Iterator[Array]:
        """An array, so many of its rows at a time."""
        with self._member(name) as file:
            header = self._header(name, file)
            for start in range(0, header.shape[0], count):
                shape = (min(count, header.shape[0] - start), *header.shape[1:])
                yield np.frombuffer(self._exactly(file, shape[0] * header.row_bytes), header.dtype).reshape(shape)

    def whole(self, name: str) -> Array:
        """A whole array.

        Raises:
            ExchangeError: it is too large, or damaged.
        """
        with self._member(name) as file:
            header = self._header(name, file)
            size = header.dtype.itemsize * int(np.prod(header.shape, dtype=object))
            if size > MOST_BYTES:
                raise ExchangeError(f"{self.path}: {name} has {size:,} bytes; the most are {MOST_BYTES:,}: cut it up")
            return np.frombuffer(self._exactly(file, size), header.dtype).reshape(header.shape)

    def text(self, name: str, most: int) -> bytes:
        """The content of a member that is no array, of so many bytes at most; empty where there is none."""
        if name not in self._archive.namelist():
            return b""
        with _damage_told(self.path), self._archive.open(name) as file:
            return file.read(most)

    @contextmanager
    def _member(self, name: str) -> Iterator[io.BufferedIOBase]:
        try:
            info = self._archive.getinfo(f"{name}.npy")
        except KeyError as error:
            raise ExchangeError(
                f"{self.path} has no array {name!r}; it has {', '.join(self.names) or 'none'}"
            ) from error
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ExchangeError(f"{self.path} is compressed in an unusual way; write it with numpy.savez")
        with _damage_told(self.path), self._archive.open(info) as file:
            assert isinstance(file, io.BufferedIOBase)
            yield file

    def _header(self, name: str, file: io.BufferedIOBase) -> Header:
        shape, fortran, dtype = _read_header(file)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise ExchangeError(f"{self.path}: {name} holds {dtype.name}; numbers belong there, and nothing pickled")
        if fortran and len(shape) > 1:
            raise ExchangeError(f"{self.path}: {name} is in Fortran's order; write numpy.ascontiguousarray({name})")
        if min(shape, default=0) < 0:
            raise ExchangeError(f"{self.path}: {name} has the shape {shape}, which no array can have")
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        there = self._archive.getinfo(f"{name}.npy").file_size - file.tell()
        if size != there:
            raise ExchangeError(
                f"{self.path}: {name} should have {size:,} bytes by its shape {shape}, and has {there:,}"
            )
        return Header(dtype, shape)

    def _exactly(self, file: io.BufferedIOBase, size: int) -> bytearray:
        """So many bytes; a bytearray, because arrays over bytes cannot be written to, which PyTorch warns about."""
        content = bytearray()
        while len(content) < size:
            part = file.read(size - len(content))
            if not part:
                raise ExchangeError(f"{self.path} ends too early; copy it again")
            content += part
        return content


def _read_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except (MemoryError, SyntaxError, TypeError, tokenize.TokenError) as error:  # the header is a Python literal
        raise ValueError(f"a header that cannot be read: {error}") from error
    return shape, fortran, dtype


@contextmanager
def opened(path: Path) -> Iterator[Npz]:
    """An .npz, open for reading.

    Raises:
        ExchangeError: it is missing, or none; also whenever something in it turns out to be damaged.
    """
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        yield Npz(path, archive)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ExchangeError(f"{path} is missing") from error
    except _DAMAGE as error:
        raise ExchangeError(
            f"{path} is damaged, or no .npz ({' '.join(str(error).split())}); write it again"
        ) from error


def write_arrays(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], rows: Iterator[Array]
) -> None:
    """Add an array to a zip row by row, as `numpy.savez` would; images are compressed, numbers hardly would be."""
    how = zipfile.ZIP_DEFLATED if np.dtype(dtype) == np.uint8 else zipfile.ZIP_STORED
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = how
    with archive.open(info, "w", force_zip64=True) as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for some in rows:
            file.write(np.ascontiguousarray(some).data.cast("B") if some.size else b"")
