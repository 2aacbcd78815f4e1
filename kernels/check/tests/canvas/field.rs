//! The noise field.

use kernel_check::{Arg, Buffer, Mode, launch};

use crate::{
    assert_bits,
    canvas::noise,
    canvas_launch::{BandSizes, DiffuseNumbers, NoiseField, diffuse, noise_field},
    numbers,
    sampler::{Level, add_noise},
};

#[test]
fn the_noise_field_has_the_bits_of_the_cpu() {
    for (seed, draw, top, height, width, channels) in [
        (0, 0, 0, 5, 37, 4),
        (42, 1, 128, 2, 300, 3),
        (u64::MAX, 9, 4000, 3, 1, 16),
        (0x1234_5678_9abc_def0, u32::MAX, u32::MAX - 3, 2, 64, 1),
    ] {
        let band = BandSizes { height, width, channels, top };
        let field = NoiseField::new(seed, draw);
        let (rows, columns) = (top as usize..(top + height) as usize, 0..width as usize);
        let len = (height * width * channels) as usize;
        let mut expected = vec![0.0; len];
        let cpu = noise::NoiseField::new(seed);
        cpu.fill(draw, rows, columns, channels as usize, &mut expected).unwrap();
        let zl = numbers(3, len);
        let level = Level::variance_preserving(0.37);
        let mut expected_z = expected.clone();
        add_noise(level, &zl, &mut expected_z).unwrap();
        for mode in Mode::ALL {
            let mut ours = Buffer::<f32>::unwritten(len);
            let arguments = &mut [Arg::output(&mut ours), Arg::value(band), Arg::value(field)];
            launch(&noise_field(band), arguments, mode);
            assert_bits("noise", &ours.to_vec(), &expected);

            let (signal, spread) = (level.signal as f32, level.spread as f32);
            let (mut zl, mut z) = (Buffer::new(&zl), Buffer::<f32>::unwritten(len));
            let arguments = &mut [
                Arg::input(&mut zl),
                Arg::output(&mut z),
                Arg::value(DiffuseNumbers { band, noise: field, signal, spread }),
            ];
            launch(&diffuse(band), arguments, mode);
            assert_bits("diffused", &z.to_vec(), &expected_z);
        }
    }
}
