"""Reads what the kernel tells in files, below a root that tests may move; a missing or unreadable file is None."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """The kernel's files (/proc, /sys) as seen below `root`."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """`name` (absolute, as in /proc/stat) below the root."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """Stripped content, or None where the kernel does not have the file, refuses it, or it is empty."""
        try:
            content = self.path(name).read_text(errors="replace").strip()
        except OSError:  # absent, not permitted, or an attribute that this driver does not implement
            return None
        return content or None

    def integer(self, name: str) -> int | None:
        """Content as an integer, or None where there is none or it is not a number ("max")."""
        content = self.text(name)
        if content is None:
            return None
        try:
            return int(content)
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Paths below the root that match an absolute pattern, sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def cgroup_folders(self, controller: str) -> tuple[int, list[Path]]:
        """The cgroup version that holds `controller` and its folders from this process's own up to the mount.

        Version 0 and no folders where no such controller is mounted. Paths in the answer are absolute and real
        (below the root). A process inside a container sees its own cgroup at the mount point.
        Source: cgroups(7), proc(5) on mountinfo.
        """
        memberships = _memberships(self.text("/proc/self/cgroup") or "")
        unified: tuple[int, list[Path]] = (0, [])
        for line in (self.text("/proc/self/mountinfo") or "").splitlines():
            left, _, right = line.partition(" - ")
            fields, kind = left.split(), right.split()
            if len(fields) < 5 or len(kind) < 3:
                continue
            mount_root, mount_point = fields[3], self.path(fields[4])
            if kind[0] == "cgroup" and controller in kind[2].split(",") and controller in memberships:
                return 1, _chain(mount_point, mount_root, memberships[controller])
            if kind[0] == "cgroup2" and "" in memberships:
                unified = (2, _chain(mount_point, mount_root, memberships[""]))
        return unified


def _memberships(text: str) -> dict[str, str]:
    """Controller (version 2: the empty string) to the path of this process's cgroup."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _chain(mount_point: Path, mount_root: str, cgroup: str) -> list[Path]:
    """Folders from the cgroup's own up to the mount point."""
    inside = cgroup == mount_root or cgroup.startswith(mount_root.rstrip("/") + "/")
    relative = cgroup[len(mount_root.rstrip("/")) :].strip("/") if inside else ""
    folders = [mount_point]
    for part in relative.split("/") if relative else []:
        folders.insert(0, folders[0] / part)
    return [folder for folder in folders if folder.is_dir()]
