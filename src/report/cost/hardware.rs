//! Hardware whose costs are estimated.

use crate::data::nearest;
use crate::error::{Error, Result};

/// The devices that a pipeline is estimated for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardware {
    /// Number of devices.
    pub devices: f64,
    /// Peak 16-bit operations per second of one device, in 10^12.
    pub peak_tflops: f64,
    /// Memory of one device, in 10^9 bytes.
    pub memory_gb: f64,
    /// Share of the peak that training and prefill reach.
    pub mfu: f64,
    /// Share of the peak that sampling reaches; sampling is bound by memory.
    pub sampling_mfu: f64,
}

/// Devices by name, with dense 16-bit TFLOPS (32-bit accumulation) and GB. GeForce cards reach twice these
/// figures with 16-bit accumulation. Only the RTX 4090 was checked against NVIDIA's Ada paper. The RTX 5090
/// is derived from NVIDIA's figure for sparse products. The other cards were not checked against a source.
const DEVICES: [(&str, f64, f64); 18] = [
    ("A100", 312., 80.),
    ("H100", 989., 80.),
    ("H200", 989., 141.),
    ("B200", 2250., 192.),
    ("MI300X", 1307., 192.),
    ("L40S", 362., 48.),
    ("L4", 121., 24.),
    ("V100", 125., 32.),
    ("T4", 65., 16.),
    ("A6000", 154.8, 48.),
    ("RTX3080", 59.5, 10.),
    ("RTX3090", 71., 24.),
    ("RTX3090Ti", 80., 24.),
    ("RTX4080", 97.5, 16.),
    ("RTX4090", 165.2, 24.),
    ("RTX5070Ti", 87.9, 16.),
    ("RTX5080", 112.6, 16.),
    ("RTX5090", 209.5, 32.),
];

/// Normalizes a device name, so that `RTX 4090`, `rtx-4090` and `4090` are the same device.
fn plain(name: &str) -> String {
    let letters: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let letters = letters.to_ascii_lowercase();
    letters.strip_prefix("rtx").map_or(letters.clone(), str::to_owned)
}

impl Hardware {
    /// Share of the peak that training reaches by default.
    pub const MFU: f64 = 0.4;
    /// Share of the peak that sampling reaches by default.
    pub const SAMPLING_MFU: f64 = 0.1;

    /// Share of a CPU's measured rate that training reaches. The share is higher than for devices because it
    /// is measured on a model's matrix products instead of taken from a data sheet.
    pub const CPU_MFU: f64 = 0.6;
    /// Share of a CPU's measured rate that sampling reaches.
    pub const CPU_SAMPLING_MFU: f64 = 0.3;

    /// Creates the hardware of a machine whose matrix products have been measured.
    pub fn measured(peak_tflops: f64, memory_gb: f64) -> Self {
        let (mfu, sampling_mfu) = (Self::CPU_MFU, Self::CPU_SAMPLING_MFU);
        Self { devices: 1., peak_tflops, memory_gb, mfu, sampling_mfu }
    }

    /// Parses `8xH100`; a name alone means one device.
    ///
    /// # Errors
    /// The device name is unknown.
    pub fn parse(text: &str) -> Result<Self> {
        let of = |name: &str| DEVICES.into_iter().find(|d| plain(name) == plain(d.0));
        // Device names may contain an x, so only a number before the first x is a count.
        let numbered = text.split_once(['x', 'X']).filter(|(count, _)| count.parse::<u64>().is_ok());
        let counted = || {
            let (count, name) = numbered?;
            Some((count.parse::<u32>().ok().filter(|n| *n > 0)?, of(name)?))
        };
        let Some((count, (_, peak_tflops, memory_gb))) = of(text).map(|d| (1, d)).or_else(counted) else {
            let known = DEVICES.map(|d| d.0);
            let name = numbered.map_or(text, |(_, name)| name);
            let near = nearest(name, known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            let names = known.join(", ");
            return Err(Error::user(format!("hardware `{text}` not found")).help(format!(
                "{near}write e.g. 8xH100 with one of {names}; `cpu` measures this machine; or omit --hardware and give --devices 1 (or more), \
                 --peak-tflops and --memory-gb"
            )));
        };
        let (mfu, sampling_mfu) = (Self::MFU, Self::SAMPLING_MFU);
        Ok(Self { devices: count.into(), peak_tflops, memory_gb, mfu, sampling_mfu })
    }

    /// Checks that every number is in range.
    ///
    /// # Errors
    /// A number is not finite or not above 0, or a share is above 1.
    pub fn check(&self) -> Result<()> {
        let numbers = [
            ("--devices", self.devices, f64::MAX),
            ("--peak-tflops", self.peak_tflops, f64::MAX),
            ("--memory-gb", self.memory_gb, f64::MAX),
            ("--mfu", self.mfu, 1.),
            ("--sampling-mfu", self.sampling_mfu, 1.),
        ];
        match numbers.into_iter().find(|&(_, n, most)| !(n > 0. && n <= most)) {
            None => Ok(()),
            Some((flag, n, 1.)) => Err(Error::user(format!("{flag} must be above 0 and at most 1, not {n}"))),
            Some((flag, n, _)) => Err(Error::user(format!("{flag} must be above 0, not {n}"))),
        }
    }

    /// Operations per hour at the peak rate of all devices.
    pub(super) fn per_hour(&self) -> f64 {
        3600. * self.devices * self.peak_tflops * 1e12
    }

    /// Describes the hardware in words.
    pub(super) fn describe(&self) -> String {
        let Self { devices, peak_tflops, memory_gb, mfu, sampling_mfu } = *self;
        let s = if devices == 1. { "" } else { "s" };
        format!(
            "on {devices} device{s} of {peak_tflops} TFLOPS and {memory_gb} GB; training and prefill reach {:.0}% of the peak, sampling {:.0}%",
            100. * mfu,
            100. * sampling_mfu
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_a_number() {
        assert_eq!(Hardware::parse("64xh100").unwrap().devices, 64.);
        assert_eq!(Hardware::parse("MI300X").unwrap(), Hardware::parse("1xmi300x").unwrap());
        for name in ["RTX4090", "rtx 4090", "RTX-4090", "4090"] {
            let found = Hardware::parse(name).unwrap();
            assert_eq!((found.devices, found.peak_tflops, found.memory_gb), (1., 165.2, 24.), "{name}");
        }
        assert_eq!(Hardware::parse("2x3090").unwrap().devices, 2.);
        for wrong in ["", "x", "0xH100", "8x", "8xTPU", "-1xH100", "4294967296xH100"] {
            let error = Hardware::parse(wrong).unwrap_err();
            assert!(error.help_text().unwrap().contains("8xH100"), "{wrong}");
        }
        for (wrong, near) in [("RTX4091", "RTX4090"), ("2xRTX4091", "RTX4090"), ("MI301X", "MI300X"), ("8xH10", "H100")]
        {
            let help = Hardware::parse(wrong).unwrap_err().help_text().unwrap().to_owned();
            assert!(help.starts_with(&format!("did you mean `{near}`? ")), "{wrong}: {help}");
        }
    }
}
