//! The store of a model's variables, by checkpoint name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;

/// Why a set of tensors does not fit the variables of a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Names or shapes differ. Nothing was changed.
    #[error(
        "the tensors do not fit the model (missing: {}; not of this model: {}; of another shape: {}); check that the configuration belongs to these weights",
        list(missing),
        list(unexpected),
        list(mismatched)
    )]
    Mismatch {
        /// Names the model has and the tensors have not.
        missing: Vec<String>,
        /// Names the tensors have and the model has not (buffers of other implementations are not counted).
        unexpected: Vec<String>,
        /// Names in both, with both shapes.
        mismatched: Vec<String>,
    },
    /// A tensor could not be converted or copied.
    #[error("cannot set {name}: {source}")]
    Set {
        /// The variable.
        name: String,
        /// candle's reason.
        source: candle_core::Error,
    },
}

/// At most eight names, so that a wrong file does not fill the screen.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "none".to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{}, and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

/// Statistics of batch norm: kept and saved, moved by the layer itself.
const STATISTICS: [&str; 2] = ["running_mean", "running_var"];

/// Constants and counters that other implementations store beside the weights and no layer here has.
const FOREIGN_BUFFERS: [&str; 5] =
    ["num_batches_tracked", "relative_position_index", "position_ids", "token_type_ids", "attn_mask"];

/// The last part of a checkpoint path.
fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// True for the index tables, masks and counters of other implementations, which may be in a file without being in the model.
/// `name` is a full checkpoint path.
pub fn is_foreign_buffer(name: &str) -> bool {
    FOREIGN_BUFFERS.contains(&leaf(name))
}

/// False for batch-norm statistics and foreign buffers, true for weights. `name` is a full checkpoint path.
pub fn is_trainable(name: &str) -> bool {
    !STATISTICS.contains(&leaf(name)) && !is_foreign_buffer(name)
}

/// Named variables in the order of their names. Clones share the variables.
#[derive(Clone, Debug, Default)]
pub struct Vars {
    data: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Vars {
    /// An empty store; [`crate::init::seeded_vars`] fills one.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.data.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The variable of that name.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.lock().get(name).cloned()
    }

    /// Number of variables, buffers included.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True when no model has asked for a variable yet.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// All variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect::<Vec<_>>().into_iter()
    }

    /// The variables an optimiser may change, in the order of their names.
    pub fn trainable(&self) -> impl Iterator<Item = (String, Var)> {
        self.iter().filter(|(name, _)| is_trainable(name))
    }

    /// Number of trainable scalars.
    pub fn trainable_elements(&self) -> usize {
        self.trainable().map(|(_, var)| var.elem_count()).sum()
    }

    /// The present values by name. They share storage with the variables: a later step of the optimiser shows in them.
    pub fn to_tensors(&self) -> HashMap<String, Tensor> {
        self.iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }

    /// Copies `tensors` into the variables of the same names, on their device and in their type.
    ///
    /// Every variable needs a tensor of its shape and every tensor a variable, buffers that this crate does not keep
    /// (position ids, index tables, batch counters) excepted. On a mismatch nothing is changed.
    pub fn load(&self, tensors: &HashMap<String, Tensor>) -> Result<(), LoadError> {
        let vars = self.lock();
        let missing: Vec<String> = vars.keys().filter(|name| !tensors.contains_key(*name)).cloned().collect();
        let mut unexpected: Vec<String> =
            tensors.keys().filter(|name| !vars.contains_key(*name) && !is_foreign_buffer(name)).cloned().collect();
        unexpected.sort_unstable();
        let mismatched: Vec<String> = vars
            .iter()
            .filter_map(|(name, var)| {
                let tensor = tensors.get(name)?;
                (tensor.dims() != var.dims())
                    .then(|| format!("{name} (model {:?}, tensor {:?})", var.dims(), tensor.dims()))
            })
            .collect();
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(LoadError::Mismatch { missing, unexpected, mismatched });
        }
        for (name, var) in vars.iter() {
            let set = || {
                let value = tensors[name].to_device(var.device())?.to_dtype(var.dtype())?;
                // `Var::set` refuses a tensor that shares the variable's storage: that one holds the value already.
                let same = value.device().same_device(var.device()) && shares_storage(&value, var);
                if same { Ok(()) } else { var.set(&value) }
            };
            set().map_err(|source| LoadError::Set { name: name.clone(), source })?;
        }
        Ok(())
    }

    /// The variable `name`, made by `init` when it does not exist yet.
    pub(crate) fn get_or_insert(
        &self,
        name: &str,
        shape: &Shape,
        make: impl FnOnce() -> candle_core::Result<Var>,
    ) -> candle_core::Result<Tensor> {
        let mut vars = self.lock();
        if let Some(var) = vars.get(name) {
            if var.shape() != shape {
                candle_core::bail!("{name} was asked for with shape {shape:?} but exists with shape {:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let var = make()?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_owned(), var);
        Ok(tensor)
    }
}

/// True when both tensors read the same memory.
fn shares_storage(a: &Tensor, b: &Tensor) -> bool {
    // Two read guards of one lock may be held together, so this cannot block.
    let ((a, _), (b, _)) = (a.storage_and_layout(), b.storage_and_layout());
    std::ptr::eq::<candle_core::Storage>(&*a, &*b)
}

/// A backend of [`candle_nn::VarBuilder`] over a store: known names are returned, new ones made by the seeded initialiser.
pub(crate) struct SeededBackend {
    pub(crate) vars: Vars,
    pub(crate) seed: u64,
}

impl candle_nn::var_builder::SimpleBackend for SeededBackend {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.vars.get_or_insert(name, &shape, || {
            let value = crate::init::seeded_tensor(self.seed, name, &shape, init, device)?.to_dtype(dtype)?;
            Var::from_tensor(&value)
        })
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.vars.get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => Err(candle_core::Error::CannotFindTensor { path: name.to_owned() }),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.vars.get(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::seeded_vars;

    fn store() -> Vars {
        let (vars, vb) = seeded_vars(7, &Device::Cpu, DType::F32);
        vb.pp("b").get((2, 3), "weight").unwrap();
        vb.pp("a").get(4, "running_mean").unwrap();
        vars
    }

    #[test]
    fn buffers_are_not_trainable() {
        for name in ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "position_ids", "block.attn_mask"] {
            assert!(!is_trainable(name), "{name}");
        }
        for name in ["bn.weight", "running_mean.weight", "logit_scale_a", "relative_position_bias_table"] {
            assert!(is_trainable(name), "{name}");
        }
        let names: Vec<_> = store().trainable().map(|(name, _)| name).collect();
        assert_eq!(names, ["b.weight"]);
    }

    #[test]
    fn iteration_follows_names() {
        let names: Vec<_> = store().iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.running_mean", "b.weight"]);
    }

    #[test]
    fn loading_round_trips_and_tolerates_foreign_buffers() {
        let (from, to) = (store(), store());
        let target = to.get("b.weight").unwrap();
        target.set(&Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let mut tensors = from.to_tensors();
        tensors.insert("x.position_ids".into(), Tensor::zeros(1, DType::I64, &Device::Cpu).unwrap());
        to.load(&tensors).unwrap();
        let value = target.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(value, vec![0.0; 6]);
        to.load(&to.to_tensors()).unwrap();
    }

    #[test]
    fn a_misfit_names_every_culprit_and_changes_nothing() {
        let vars = store();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("b.weight".into(), ones(&[3, 2])),
            ("c.weight".into(), ones(&[1])),
            ("c.running_var".into(), ones(&[1])),
        ]);
        let text = vars.load(&tensors).unwrap_err().to_string();
        for part in ["a.running_mean", "c.running_var, c.weight", "b.weight (model [2, 3], tensor [3, 2])"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(vars.get("b.weight").unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn a_shape_conflict_is_an_error() {
        let (_, vb) = seeded_vars(7, &Device::Cpu, DType::F32);
        vb.get(3, "w").unwrap();
        assert!(vb.get(4, "w").unwrap_err().to_string().contains("w was asked for"));
    }
}
