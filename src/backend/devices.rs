//! The devices that share one job (`--device cuda:0,cuda:1`): parsing and opening.

use std::{fmt, str::FromStr};

use candle_core::{Device, DeviceLocation};

use super::device::{DeviceError, DeviceSpec};

/// What stands for every NVIDIA GPU.
const ALL_CUDA: &str = "cuda:all";

/// Choice of the devices of a job, all of one kind: the kinds round differently, so that a picture's bytes would depend
/// on which device took which region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceList {
    /// Each of these, at least one. The CPU and NVIDIA GPUs may be among them more than once.
    Each(Vec<DeviceSpec>),
    /// Every NVIDIA GPU that can be opened.
    AllCuda,
}

impl Default for DeviceList {
    fn default() -> Self {
        Self::Each(vec![DeviceSpec::default()])
    }
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllCuda => f.write_str(ALL_CUDA),
            Self::Each(devices) => {
                let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for DeviceList {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == ALL_CUDA {
            return Ok(Self::AllCuda);
        }
        let names: Vec<&str> = text.split(',').collect();
        let alone = |name: &&&str| [ALL_CUDA, "auto"].contains(name);
        if let (Some(name), 2..) = (names.iter().find(alone), names.len()) {
            return Err(DeviceError::Alone((*name).to_owned()));
        }
        let devices =
            names.iter().map(|name| name.parse()).collect::<Result<Vec<DeviceSpec>, _>>()?;
        for (index, device) in devices.iter().enumerate() {
            let first = devices[0];
            if std::mem::discriminant(device) != std::mem::discriminant(&first) {
                return Err(DeviceError::Mixed(first.to_string(), device.to_string()));
            }
            // Each time that it is named, an NVIDIA GPU gives another stream; Apple's is one for the process.
            if *device == DeviceSpec::Metal && devices[..index].contains(device) {
                return Err(DeviceError::Repeated(*device));
            }
        }
        Ok(Self::Each(devices))
    }
}

impl DeviceList {
    /// Opens the devices, in their order.
    ///
    /// # Errors
    /// The first device that cannot be opened; of [`AllCuda`](Self::AllCuda) only a machine without any.
    pub fn open(&self) -> Result<Vec<Device>, DeviceError> {
        match self {
            Self::Each(devices) => devices.iter().map(|device| device.open()).collect(),
            Self::AllCuda => {
                let ordinals = 0..cuda_count().max(1);
                let tried: Vec<_> =
                    ordinals.map(|ordinal| DeviceSpec::Cuda(ordinal).open()).collect();
                if tried.iter().any(Result::is_ok) {
                    return Ok(tried.into_iter().flatten().collect());
                }
                tried.into_iter().collect()
            }
        }
    }
}

/// NVIDIA GPUs that the driver shows this process.
#[cfg(feature = "cuda")]
fn cuda_count() -> usize {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    CudaContext::device_count().ok().and_then(|count| count.try_into().ok()).unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
fn cuda_count() -> usize {
    0
}

/// Checks that there is a device, and that all are of one kind.
///
/// # Errors
/// [`DeviceError::Missing`] and [`DeviceError::Mixed`].
pub fn check_devices(devices: &[Device]) -> Result<(), DeviceError> {
    let Some(first) = devices.first() else { return Err(DeviceError::Missing) };
    let kind = |device: &Device| std::mem::discriminant(device);
    match devices.iter().find(|device| kind(device) != kind(first)) {
        Some(other) => Err(DeviceError::Mixed(place_name(first), place_name(other))),
        None => Ok(()),
    }
}

/// The device as `--device` names it, `cuda:1` for example.
#[must_use]
pub fn place_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => DeviceSpec::Cpu,
        DeviceLocation::Cuda { gpu_id } => DeviceSpec::Cuda(gpu_id),
        DeviceLocation::Metal { .. } => DeviceSpec::Metal,
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_parses_to_what_it_prints() {
        let lists = ["auto", "cpu", "cpu,cpu,cpu", "cuda:0,cuda:2", "cuda:1", "cuda:1,cuda:1"];
        for list in lists.into_iter().chain(["cuda:all", "metal"]) {
            assert_eq!(list.parse::<DeviceList>().unwrap().to_string(), list);
        }
        assert_eq!("cuda,cuda:1".parse::<DeviceList>().unwrap().to_string(), "cuda:0,cuda:1");
        assert_eq!(DeviceList::default().to_string(), "auto");
    }

    #[test]
    fn devices_of_two_kinds_and_apples_named_twice_are_refused_by_their_names() {
        for (list, expected) in [
            ("cuda:1,cpu", "devices cuda:1 and cpu: "),
            ("cpu,metal", "devices cpu and metal: "),
            ("metal,metal", "device metal is named twice"),
            ("cpu,auto", "auto stands alone"),
            ("cuda:all,cuda:1", "cuda:all stands alone"),
            ("cuda:0,", "unknown device ``"),
            ("cpu,gpu", "unknown device `gpu`"),
        ] {
            let error = list.parse::<DeviceList>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{list}: {error}");
        }
    }

    #[test]
    fn the_cpu_opens_as_often_as_it_is_named_and_no_device_is_an_error() {
        let devices = "cpu,cpu".parse::<DeviceList>().unwrap().open().unwrap();
        assert_eq!(devices.iter().map(place_name).collect::<Vec<_>>(), ["cpu", "cpu"]);
        assert!(check_devices(&devices).is_ok());
        assert!(matches!(check_devices(&[]), Err(DeviceError::Missing)));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn all_gpus_of_a_build_without_any_are_refused() {
        assert!(matches!(DeviceList::AllCuda.open(), Err(DeviceError::NotBuilt(..))));
    }
}
