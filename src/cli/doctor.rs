//! `doctor`: which devices there are, what computes on the chosen one, and whether its kernels compute right.

use std::{fmt::Write as _, iter};

use candle_core::{DType, Device};
use cupscale::{
    backend::{
        KernelTest, ListedDevice, Operation, Placement, choose_kernels, device_name, kernel_tests,
        list_devices, self_test, working_dtype,
    },
    pipeline::Error,
    units,
};

use super::{
    args::DoctorArgs,
    error::{CliError, DONE, FAILED},
    print::print,
};

/// Prints the report; the exit code says whether all is well.
///
/// # Errors
/// A device that is not available, or a standard output that cannot be written.
pub fn run(args: &DoctorArgs) -> Result<u8, CliError> {
    choose_kernels(args.kernels.choice());
    print(&devices(&list_devices()))?;
    let device = args.device.open().map_err(Error::from)?;
    let tests = match kernel_tests(&device) {
        tests if tests.is_empty() => self_test(&device),
        tests => tests,
    };
    let name = device_name(&device, working_dtype(&device));
    let types = types(&device);
    print(&format!("\nchosen: {name}\n\n{}", operations((&device).into(), types, &tests)))?;
    let failures: Vec<_> = tests.iter().filter(|test| !test.passed()).collect();
    let all = units::count(tests.len(), "test");
    let verdict = match failures.len() {
        _ if tests.is_empty() => {
            "self-test: nothing to test, this device has no kernels of ours".to_owned()
        }
        0 => format!("self-test: {all}, all passed"),
        failed => format!("self-test: {all}, {failed} FAILED"),
    };
    let failures: String = failures.iter().map(|test| failure(test) + "\n").collect();
    print(&format!("\n{verdict}\n{failures}"))?;
    Ok(if failures.is_empty() { DONE } else { FAILED })
}

/// What a failed test means, in a line.
pub fn failure(test: &KernelTest) -> String {
    let (name, dtype) = (test.operation.name(), test.dtype.as_str());
    let why = match &test.outcome {
        Ok(difference) => format!("its values are wrong by {difference:.1e} of the largest"),
        Err(error) => error.clone(),
    };
    format!("the kernel of {name} for {dtype} failed its test and is not used on a GPU: {why}")
}

/// The devices, a line each.
fn devices(devices: &[ListedDevice]) -> String {
    let mut text = "devices\n".to_owned();
    for device in devices {
        let spec = device.spec.to_string();
        let threads = match device.spec {
            cupscale::backend::DeviceSpec::Cpu => {
                format!(", {}", units::count(rayon::current_num_threads(), "thread"))
            }
            _ => String::new(),
        };
        let _ = match &device.found {
            Ok((name, Some(memory))) => {
                writeln!(text, "  {spec:<8} {name}{threads}, {} of memory", units::bytes(*memory))
            }
            Ok((name, None)) => writeln!(text, "  {spec:<8} {name}{threads}"),
            Err(reason) => writeln!(text, "  {spec:<8} not available: {reason}"),
        };
    }
    text
}

/// The types that values have on a device: that of the denoiser first, and that of the autoencoder.
fn types(device: &Device) -> &'static [DType] {
    match device {
        Device::Cpu => &[DType::F32],
        Device::Cuda(_) => &[DType::BF16, DType::F16, DType::F32],
        Device::Metal(_) => &[DType::F16, DType::F32],
    }
}

/// What computes each operation for each type, with the largest difference where it was tested.
fn operations(placement: Placement, types: &[DType], tests: &[KernelTest]) -> String {
    let tested = |operation: Operation, dtype: DType| {
        let by = operation.served_by(placement, dtype);
        let test = tests.iter().find(|test| test.operation == operation && test.dtype == dtype);
        match test.map(|test| (test.passed(), &test.outcome)) {
            Some((true, Ok(0.0))) => format!("{by} (exact)"),
            Some((true, Ok(difference))) => format!("{by} ({difference:.1e})"),
            Some(_) => format!("{by} (FAILED)"),
            None => by.to_owned(),
        }
    };
    let head = iter::once("OPERATION".to_owned())
        .chain(types.iter().map(|dtype| dtype.as_str().to_uppercase()));
    let rows = Operation::ALL.into_iter().map(|operation| {
        iter::once(operation.name().to_owned())
            .chain(types.iter().map(|&dtype| tested(operation, dtype)))
            .collect::<Vec<_>>()
    });
    let mut text = String::new();
    for row in iter::once(head.collect::<Vec<_>>()).chain(rows) {
        let line: String = row.iter().map(|cell| format!("{cell:<24}")).collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
