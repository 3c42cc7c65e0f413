//! Naming the device that a model runs on. The only place of the libraries that knows backends.

use std::fmt;
use std::str::FromStr;

use guard_core::burn::tensor::Device;

/// A device by name: `auto`, `cpu`, or a backend and a number such as `cuda:0` or `vulkan`.
///
/// A name can be parsed whether or not its backend was built; [`DeviceName::open`] says what
/// feature is missing.
///
/// ```
/// use guard_infer::DeviceName;
///
/// let device = "cpu".parse::<DeviceName>()?.open()?;
/// assert!("cuda:1".parse::<DeviceName>().is_ok());
/// # Ok::<(), guard_infer::DeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceName {
    /// burn's choice: the GPU backend if one was built, else the CPU. It does not look whether
    /// there is a GPU: name `cpu` on a machine without one.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through a backend: the best that it finds, or the one of this number. With Vulkan,
    /// Metal and WebGPU numbers count discrete GPUs only, of which laptops often have none.
    Gpu(GpuBackend, Option<usize>),
}

/// A backend for GPUs. Each is a feature of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpuBackend {
    /// NVIDIA's CUDA.
    Cuda,
    /// AMD's ROCm.
    Rocm,
    /// Vulkan.
    Vulkan,
    /// Apple's Metal.
    Metal,
    /// WebGPU, on whatever the system has.
    Wgpu,
}

impl GpuBackend {
    const ALL: [Self; 5] = [Self::Cuda, Self::Rocm, Self::Vulkan, Self::Metal, Self::Wgpu];

    fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Wgpu => "wgpu",
        }
    }
}

/// A device that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The name is none.
    #[error(
        "unknown device `{0}`: expected auto, cpu, cuda, rocm, vulkan, metal or wgpu, the last five with an optional number such as cuda:1"
    )]
    Unknown(String),
    /// The program was built without the backend.
    #[error(
        "this program was built without the feature `{feature}`, which the device `{device}` needs"
    )]
    NotBuilt {
        /// The device that was asked for.
        device: DeviceName,
        /// The feature of guard-infer to switch on.
        feature: &'static str,
    },
}

impl DeviceName {
    /// The device of this name. Whether a GPU is really there shows when it is first used: burn
    /// panics then if it is not.
    ///
    /// # Errors
    ///
    /// [`DeviceError::NotBuilt`] when the program was built without its backend.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Auto => Ok(Device::default()),
            Self::Cpu => open_cpu(self),
            Self::Gpu(backend, number) => open_gpu(self, backend, number),
        }
    }
}

fn open_cpu(device: DeviceName) -> Result<Device, DeviceError> {
    #[cfg(feature = "flex")]
    {
        let _ = device;
        Ok(Device::flex())
    }
    #[cfg(not(feature = "flex"))]
    Err(DeviceError::NotBuilt { device, feature: "flex" })
}

fn open_gpu(
    device: DeviceName,
    backend: GpuBackend,
    number: Option<usize>,
) -> Result<Device, DeviceError> {
    match backend {
        #[cfg(feature = "cuda")]
        GpuBackend::Cuda => Ok(Device::cuda(number.unwrap_or(0))),
        #[cfg(feature = "rocm")]
        GpuBackend::Rocm => Ok(Device::rocm(number.unwrap_or(0))),
        #[cfg(feature = "vulkan")]
        GpuBackend::Vulkan => Ok(Device::vulkan(kind(number))),
        #[cfg(feature = "metal")]
        GpuBackend::Metal => Ok(Device::metal(kind(number))),
        #[cfg(feature = "wgpu")]
        GpuBackend::Wgpu => Ok(Device::wgpu(kind(number))),
        #[allow(unreachable_patterns)]
        backend => {
            let _ = number;
            Err(DeviceError::NotBuilt { device, feature: backend.name() })
        }
    }
}

#[cfg(any(feature = "vulkan", feature = "metal", feature = "wgpu"))]
fn kind(number: Option<usize>) -> guard_core::burn::tensor::DeviceKind {
    use guard_core::burn::tensor::DeviceKind;

    number.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu)
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(backend, None) => f.write_str(backend.name()),
            Self::Gpu(backend, Some(number)) => write!(f, "{}:{number}", backend.name()),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(name.to_owned());
        let (backend, number) = match name.split_once(':') {
            Some((backend, number)) => (backend, Some(number.parse().map_err(|_| unknown())?)),
            None => (name, None),
        };
        match (backend, number) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            _ => {
                let backend = GpuBackend::ALL.into_iter().find(|gpu| gpu.name() == backend);
                Ok(Self::Gpu(backend.ok_or_else(unknown)?, number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["auto", "cpu", "cuda", "cuda:0", "vulkan:3", "metal", "rocm:1", "wgpu"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:0:1", "CPU"] {
            assert_eq!(name.parse::<DeviceName>(), Err(DeviceError::Unknown(name.to_owned())));
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_backend_that_was_not_built_names_its_feature() {
        let error = "cuda".parse::<DeviceName>().unwrap().open().unwrap_err();
        assert!(error.to_string().contains("feature `cuda`"), "{error}");
    }
}
