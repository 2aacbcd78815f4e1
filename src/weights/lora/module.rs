//! A module of an adapter file: its tensors by their roles, and the kind of adapter that they make.

use std::collections::BTreeMap;

use super::changes::{Change, ChangeKind};
use super::config::AdapterConfig;
use super::error::LoraError;
use super::factor::{Factor, trim};
use super::names::LoraWeight;
use super::roles::{LoraTensorRole, Of};
use crate::weights::tensors::{Take, TensorMap};

/// Kinds of adapter by the tensors that a module has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ModuleKind {
    Lora,
    Loha,
    Lokr,
    Oft,
    PeftOft,
    Difference,
    Glora,
    Ia3,
}

impl ModuleKind {
    pub(super) fn of(role: LoraTensorRole) -> Option<Self> {
        use LoraTensorRole as Role;
        Some(match role {
            Role::Down | Role::Up | Role::Mid => Self::Lora,
            Role::HadaUp(_) | Role::HadaDown(_) | Role::HadaCore(_) => Self::Loha,
            Role::Kron(_) | Role::KronUp(_) | Role::KronDown(_) | Role::KronCore => Self::Lokr,
            Role::OftBlocks | Role::Rescale => Self::Oft,
            Role::OftTriangles => Self::PeftOft,
            Role::Difference => Self::Difference,
            Role::GeneralA(_) | Role::GeneralB(_) | Role::GeneralCore => Self::Glora,
            Role::Lengths | Role::OnInput => Self::Ia3,
            Role::Alpha
            | Role::Scalar
            | Role::DoraScale
            | Role::Magnitude
            | Role::BiasDifference => return None,
        })
    }

    /// Name in a message.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::Loha => "LoHa",
            Self::Lokr => "LoKr",
            Self::Oft | Self::PeftOft => "OFT",
            Self::Difference => "a difference",
            Self::Glora => "GLoRA",
            Self::Ia3 => "IA³",
        }
    }
}

/// What a module's change is multiplied with.
pub(super) struct Strength<'a> {
    /// scale that was asked for, with the weight of the block
    pub scale: f64,
    pub config: &'a AdapterConfig,
    /// module's name for the configuration
    pub module: &'a str,
}

/// Tensors of one module, by their keys.
#[derive(Default)]
pub(super) struct Module<'a> {
    keys: BTreeMap<LoraTensorRole, &'a str>,
}

impl<'a> Module<'a> {
    pub(super) fn insert(&mut self, role: LoraTensorRole, key: &'a str) {
        self.keys.insert(role, key);
    }

    /// Takes out a tensor that is none of an adapter: a `weight` without `on_input` is a weight.
    pub(super) fn take_weight(&mut self) -> Option<&'a str> {
        let is_weight = !self.has(LoraTensorRole::OnInput);
        is_weight.then(|| self.keys.remove(&LoraTensorRole::Lengths)).flatten()
    }

    pub(super) fn has(&self, role: LoraTensorRole) -> bool {
        self.keys.contains_key(&role)
    }

    /// `true` if nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// `true` if it has something that changes a weight or a bias.
    pub(super) fn changes_something(&self) -> bool {
        self.has(LoraTensorRole::BiasDifference)
            || self.keys.keys().any(|&role| ModuleKind::of(role).is_some())
    }

    /// Key of the tensor with a role, if the module has it.
    pub(super) fn key(&self, role: LoraTensorRole) -> Option<&'a str> {
        self.keys.get(&role).copied()
    }

    /// Key of a tensor that the module cannot do without.
    pub(super) fn need(&self, name: &str, role: LoraTensorRole) -> Result<&'a str, LoraError> {
        let missing = || LoraError::Half { module: name.to_owned(), missing: role.title() };
        self.key(role).ok_or_else(missing)
    }

    /// Roles and keys of all its tensors.
    pub(super) fn keys(&self) -> impl Iterator<Item = (LoraTensorRole, &'a str)> {
        self.keys.iter().map(|(&role, &key)| (role, key))
    }

    /// Inputs of the layer that it changes, where its shapes tell.
    pub(super) fn input_width(&self, file: &TensorMap) -> Option<usize> {
        let columns = |role| file.shape(self.key(role)?)?.get(1).copied();
        let of_kron = |whole, down| columns(whole).or_else(|| columns(down));
        columns(LoraTensorRole::Down)
            .or_else(|| columns(LoraTensorRole::HadaDown(Of::First)))
            .or_else(|| columns(LoraTensorRole::Difference))
            .or_else(|| {
                let [first, second] = [Of::First, Of::Second]
                    .map(|of| of_kron(LoraTensorRole::Kron(of), LoraTensorRole::KronDown(of)));
                first?.checked_mul(second?)
            })
    }

    /// Kind of adapter that the module is, if it changes a weight.
    ///
    /// # Errors
    /// None, though it should, or several.
    pub(super) fn kind(&self, name: &str) -> Result<Option<ModuleKind>, LoraError> {
        let mut kinds: Vec<_> = self.keys.keys().filter_map(|&role| ModuleKind::of(role)).collect();
        kinds.dedup();
        match kinds.as_slice() {
            &[kind] => Ok(Some(kind)),
            [] if self.has(LoraTensorRole::BiasDifference) => Ok(None),
            [] => self.need(name, LoraTensorRole::Up).map(|_| None),
            [first, second, ..] => Err(LoraError::Mixed {
                module: name.to_owned(),
                kinds: [first.title(), second.title()],
            }),
        }
    }

    /// Change of a bias, if the module changes one.
    ///
    /// # Errors
    /// A layer without a bias, or a difference of another length.
    pub(super) fn bias_change(
        &self,
        file: &TensorMap,
        weight: &LoraWeight,
        take: Take,
        scale: f64,
    ) -> Result<Option<Change>, LoraError> {
        let Some(key) = self.key(LoraTensorRole::BiasDifference) else { return Ok(None) };
        let found = file.shape(key).unwrap_or_default();
        let fits = |bias: &[usize]| trim(&take.shape(found)) == trim(bias);
        match &weight.bias {
            Some(bias) if fits(bias) => Ok(Some(Change {
                kind: ChangeKind::Sum { factor: 1.0, matrix: Factor::Whole(key.to_owned()) },
                lengths: None,
                take,
                rows: bias.first().copied().unwrap_or(1),
                inputs: 1,
                strength: scale,
            })),
            bias => Err(LoraError::Bias {
                key: key.to_owned(),
                found: found.to_vec(),
                weight: weight.bias_name(),
                expected: bias.clone(),
            }),
        }
    }
}
