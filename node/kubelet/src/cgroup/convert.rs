//! Kubernetes' cpu figures in the kernel's units.

/// The period quotas are given for, in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;
/// Smallest share.
pub(crate) const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA: i64 = 1_000;

/// cpu.shares of a request in thousandths of a cpu.
pub(crate) fn shares(milli: i64) -> u64 {
    (milli.max(0) as u64 * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota of a limit in thousandths of a cpu.
pub(crate) fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA)
}

/// cpu.weight (1-10000) of a share (2-262144).
pub(crate) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_figures() {
        for (milli, expected) in [(0, 2), (1, 2), (100, 102), (500, 512), (1000, 1024), (1_000_000, 262_144)] {
            assert_eq!(shares(milli), expected, "{milli}");
        }
        for (milli, expected) in [(1, 1000), (10, 1000), (500, 50_000), (2000, 200_000)] {
            assert_eq!(quota(milli), expected, "{milli}");
        }
        for (value, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(value), expected, "{value}");
        }
    }
}
