//! The devices of this build and this machine, as they are told to people. None is opened but for Apple's.

use super::{DeviceSpec, MatmulPrecision, limited_room, usable_memory};

/// A device that may be chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListedDevice {
    /// Its name on the command line.
    pub spec: DeviceSpec,
    /// What it is, and its memory in bytes where that is known; or why it cannot be used.
    pub found: Result<(String, Option<usize>), String>,
}

/// All devices: the CPU, every NVIDIA GPU, and the Apple GPU. A kind that is not there has one entry, which
/// says why.
#[must_use]
pub fn list_devices() -> Vec<ListedDevice> {
    let mut devices = vec![ListedDevice { spec: DeviceSpec::Cpu, found: Ok(cpu()) }];
    if cfg!(feature = "cuda") {
        devices.extend(cuda());
    } else {
        devices.push(missing(DeviceSpec::Cuda(0)));
    }
    devices.push(metal());
    devices
}

/// Instructions of the processor's products, and what memory may be used.
fn cpu() -> (String, Option<usize>) {
    let products = [MatmulPrecision::F32, MatmulPrecision::Bf16]
        .into_iter()
        .filter_map(|precision| Some(format!("{precision} by {}", precision.instructions()?)))
        .collect::<Vec<_>>()
        .join(", ");
    (products, usable_memory(&candle_core::Device::Cpu, 0).or_else(limited_room))
}

/// Entry of a device whose opening fails.
fn missing(spec: DeviceSpec) -> ListedDevice {
    let found = match spec.open_untested() {
        Ok(_) => Ok((String::new(), None)),
        Err(error) => Err(error.reason()),
    };
    ListedDevice { spec, found }
}

fn metal() -> ListedDevice {
    let spec = DeviceSpec::Metal;
    #[cfg(feature = "metal")]
    if let Ok(device) = spec.open_untested()
        && let candle_core::Device::Metal(gpu) = &device
    {
        let found = Ok((super::metal::gpu_name(gpu), usable_memory(&device, 0)));
        return ListedDevice { spec, found };
    }
    missing(spec)
}

/// Every NVIDIA GPU, without a context on any.
#[cfg(feature = "cuda")]
fn cuda() -> Vec<ListedDevice> {
    match super::cuda::list_gpus() {
        Ok(gpus) if !gpus.is_empty() => gpus
            .into_iter()
            .enumerate()
            .map(|(ordinal, (name, memory))| ListedDevice {
                spec: DeviceSpec::Cuda(ordinal),
                found: Ok((name, Some(memory))),
            })
            .collect(),
        _ => vec![missing(DeviceSpec::Cuda(0))],
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<ListedDevice> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_device_is_listed_and_the_cpu_is_there() {
        let devices = list_devices();
        let is_listed = |spec| devices.iter().any(|device| device.spec == spec);
        assert!(is_listed(DeviceSpec::Cuda(0)) && is_listed(DeviceSpec::Metal));
        let (name, memory) = devices[0].found.clone().unwrap();
        assert!(name.contains("f32 by "), "{name}");
        assert!(memory.is_none_or(|bytes| bytes > 1 << 20));
        for device in &devices {
            if let Err(reason) = &device.found {
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            }
        }
    }
}
