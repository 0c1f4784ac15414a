"""Apply stamps on a torch device, with the same result as `core.stamp.apply`.

Both compute in integers, so equality is exact, and tests compare them for every trigger; numpy's is the reference. JPEG
runs on the CPU.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargate.core import stamp as reference
from pargate.core.stamp import ONE, WARP_ONE, Lookup, Mix, Overflow, Paste, Recompress, Scatter, Stamp, Warp

CACHED_VALUES = 1 << 18
"""Number of values per step on the CPU: as int32 they stay in a core's second-level cache, where a blend takes a third
of the time."""


def apply(stamp: Stamp, pixels: Tensor) -> Tensor:
    """Return a stamped copy of uint8 [n, H, W, 3] on its device."""
    pixels = pixels.contiguous()
    match stamp:
        case Paste():
            return _paste(stamp, pixels)
        case Mix():
            return _mix(stamp, pixels)
        case Warp():
            return _warp(stamp, pixels)
        case Lookup(table):
            return _lookup(_put(table, pixels.device), pixels)
        case Recompress(inner, quality):
            stamped = reference.recompress(apply(inner, pixels).cpu().numpy(), quality)
            return torch.from_numpy(stamped).to(pixels.device)
        case Scatter():
            return _scatter(stamp, pixels)


def _put(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return a numpy array on `device`, its broadcast axes at length 1, without a copy on the CPU where possible.

    Only broadcast arrays are copied, after they are narrowed: numpy marks them read-only, which torch does not support.
    """
    narrow = tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)
    array = np.ascontiguousarray(array[narrow])
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device, non_blocking=True)


def _level(values: Tensor, overflow: Overflow) -> Tensor:
    """Return uint8 of fixed-point levels, as `core.stamp.level`; `values` is overwritten."""
    if overflow == "clip":
        return (values >> 16).clamp_(0, 255).to(torch.uint8)
    # Division truncates toward zero, as the reference does; `& 255` wraps.
    return values.div_(ONE, rounding_mode="trunc").bitwise_and_(255).to(torch.uint8)


def _share(pixels: Tensor) -> int:
    """Return the number of images per step."""
    if pixels.device.type != "cpu":
        return max(1, len(pixels))
    return max(1, CACHED_VALUES // max(1, pixels.shape[1:].numel()))


def _mix(stamp: Mix, pixels: Tensor) -> Tensor:
    gain, offset = _put(stamp.gain, pixels.device), _put(stamp.offset, pixels.device)
    out = torch.empty_like(pixels)
    share = _share(pixels)
    for first in range(0, len(pixels), share):
        part = slice(first, first + share)
        values = pixels[part].to(torch.int32)
        values.mul_(gain[part] if len(gain) > 1 else gain).add_(offset[part] if len(offset) > 1 else offset)
        out[part] = _level(values, stamp.overflow)
    return out


def _channel_mean(pixels: Tensor) -> Tensor:
    """Return the mean colour of each image, as `core.stamp.channel_mean`: int32 [n, 1, 1, 3], levels · ONE."""
    n, height, width, _ = pixels.shape
    # Sums of a column stay below 2^24, so float32 is exact here, and several times faster than integers.
    columns = [part.reshape(-1, height, width * 3).float().sum(1) for part in torch.split(pixels, _share(pixels))]
    total = torch.cat(columns).view(n, width, 3).to(torch.int64).sum(1)
    mean = torch.div(total * ONE, height * width, rounding_mode="floor")
    return mean.to(torch.int32)[:, None, None, :]


def _paste(stamp: Paste, pixels: Tensor) -> Tensor:
    n, height, width, _ = pixels.shape
    rows, columns = stamp.window.shape[1:3]
    window = _put(stamp.window, pixels.device)
    window = window + stamp.relative * _channel_mean(pixels) if stamp.relative else window.clone()
    patch = _level(window, stamp.overflow).expand(n, rows, columns, 3)
    out = pixels.clone()
    if (stamp.places == stamp.places[:1]).all():
        for top, left in stamp.places[0].tolist() if n else ():
            out[:, top : top + rows, left : left + columns] = patch
        return out
    places = _put(stamp.places.astype(np.int64), pixels.device)
    down, across = torch.arange(rows, device=pixels.device), torch.arange(columns, device=pixels.device)
    inside = down[:, None] * width + across
    images = torch.arange(n, device=pixels.device)[:, None, None] * (height * width)
    # One place after another: where windows overlap the last one wins, as in the reference.
    for corner in (places[..., 0] * width + places[..., 1]).unbind(1):
        out.view(-1, 3)[(images + corner[:, None, None] + inside).view(-1)] = patch.reshape(-1, 3)
    return out


def _warp(stamp: Warp, pixels: Tensor) -> Tensor:
    rows, columns = _put(stamp.rows, pixels.device), _put(stamp.columns, pixels.device)
    if max(len(rows), len(columns)) == 1:
        return torch.cat([_bend(part, rows[0], columns[0]) for part in torch.split(pixels, _share(pixels))])
    rows, columns = rows.expand(len(pixels), -1, -1), columns.expand(len(pixels), -1, -1)
    return torch.cat([_bend(pixels[i : i + 1], rows[i], columns[i]) for i in range(len(pixels))])


def _bend(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return uint8 [n, H, W, 3], read at the same fixed-point places [H, W] in every image."""
    n, height, width, _ = pixels.shape
    rows, columns = rows.clamp(0, (height - 1) * WARP_ONE), columns.clamp(0, (width - 1) * WARP_ONE)
    top, left = rows >> 8, columns >> 8
    bottom, right = (top + 1).clamp_(max=height - 1), (left + 1).clamp_(max=width - 1)
    down, across = (rows & 255).view(-1, 1), (columns & 255).view(-1, 1)
    # Positions come first: one place is read for all images from contiguous memory.
    lines = pixels.permute(1, 2, 0, 3).reshape(height * width, n * 3).to(torch.int32)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return lines.index_select(0, (row * width + column).view(-1))

    upper = at(top, left).mul_(WARP_ONE - across).add_(at(top, right).mul_(across))
    lower = at(bottom, left).mul_(WARP_ONE - across).add_(at(bottom, right).mul_(across))
    blended = upper.mul_(WARP_ONE - down).add_(lower.mul_(down)).add_(ONE // 2) >> 16
    return blended.to(torch.uint8).view(height, width, n, 3).permute(2, 0, 1, 3).contiguous()


def _lookup(table: Tensor, pixels: Tensor) -> Tensor:
    channels = [table[:, c].contiguous().index_select(0, pixels[..., c].reshape(-1).int()) for c in range(3)]
    return torch.stack(channels, dim=-1).view(pixels.shape)


def _scatter(stamp: Scatter, pixels: Tensor) -> Tensor:
    n, height, width, _ = pixels.shape
    change = apply(stamp.inner, pixels).to(torch.int16).sub_(pixels)
    orders = _put(stamp.orders, pixels.device)
    choice = _put(stamp.choice.astype(np.int64), pixels.device).expand(n)
    first = torch.arange(n, device=pixels.device)[:, None] * (height * width)
    moved = change.view(-1, 3).index_select(0, (orders[choice] + first).view(-1)).view(pixels.shape)
    top, bottom, left, right = stamp.box
    inside, area = moved[:, top:bottom, left:right], max(1, (bottom - top) * (right - left))
    total = inside.sum(dim=(1, 2), dtype=torch.int64, keepdim=True)
    twice_the_mean = torch.div(2 * total + area // 2, area, rounding_mode="floor").to(torch.int16)
    out = pixels.clone()
    # |inside − twice the mean| stays below 3 · 255, within int16.
    out[:, top:bottom, left:right] = (inside - twice_the_mean).add_(out[:, top:bottom, left:right]).clamp_(0, 255)
    return out
