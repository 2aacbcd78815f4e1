//! Kernels on the GPUs of this machine, where there are some.

use cupscale::backend::{DeviceSpec, self_test};

#[test]
fn every_kernel_of_a_gpu_that_is_there_computes_what_it_should() {
    for spec in [DeviceSpec::Cuda(0), DeviceSpec::Metal] {
        let Ok(device) = spec.open() else {
            println!("{spec}: not here");
            continue;
        };
        let tests = self_test(&device);
        for test in &tests {
            println!("{spec}: {:<12} {:?} {:?}", test.operation.name(), test.dtype, test.outcome);
        }
        let failed: Vec<_> = tests.iter().filter(|test| !test.passed()).collect();
        assert!(!tests.is_empty() && failed.is_empty(), "{spec}: {failed:?}");
    }
}
