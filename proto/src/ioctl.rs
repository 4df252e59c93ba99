//! What a mount can be asked by ioctl(2), on any file or directory of it that is open.
//!
//! Other file systems answer `ENOTTY`, so asking tells whether this is one of ours.

/// The calls' letter.
const LETTER: u32 = 0x50;
/// The direction: from the program to the mount.
const WRITE: u32 = 1 << 30;

/// So many objects go into one [`fsync_many`].
pub const FSYNC_MANY_MAX: usize = 1024;

/// The command by which `count` files and directories of this mount (at most [`FSYNC_MANY_MAX`]) are made
/// durable, each as by fsync(2): its argument is an array of their inode numbers, `u64`. When it fails,
/// nothing is promised of any of them.
#[must_use]
pub const fn fsync_many(count: usize) -> u32 {
    WRITE | ((count * 8) as u32) << 16 | LETTER << 8 | 1
}

/// Whether `cmd` is an [`fsync_many`], of whatever count.
#[must_use]
pub const fn is_fsync_many(cmd: u32) -> bool {
    cmd & 0xc000_ffff == fsync_many(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernels_macros() {
        // _IOW('P', 1, uint64_t[250])
        assert_eq!(fsync_many(250), 0x47d0_5001);
        assert!(is_fsync_many(fsync_many(FSYNC_MANY_MAX)) && is_fsync_many(fsync_many(1)));
        // FS_IOC_GETFLAGS, TCGETS
        assert!(!is_fsync_many(0x8008_6601) && !is_fsync_many(0x5401));
    }
}
