"""Disk errors, and the words for them in messages."""

import errno

DISK_REFUSALS = [
    (errno.ENOSPC, "the disk is full"),
    (errno.EDQUOT, "the disk quota is used up"),
    (errno.EROFS, "the disk is read-only"),
    (errno.EACCES, "there is no permission for it"),
    (errno.EPERM, "there is no permission for it"),
    (errno.EIO, "Input/output error"),
]
