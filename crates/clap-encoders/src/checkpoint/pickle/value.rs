//! What a pickle describes, as plain data.

use super::Reading;

/// Number of a value within its pickle. Values refer to each other by it, so that a cycle is no trouble.
pub(super) type Id = u32;

/// One value. Text and names are the file's own bytes.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: little-endian, two's complement.
    Long(&'a [u8]),
    Text(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by name.
    Global {
        module: &'a [u8],
        name: &'a [u8],
    },
    /// What a function or class would make of its arguments. It is not called.
    Call {
        callable: Id,
        args: Id,
    },
    /// Something beside the pickle: in torch's files the values of a tensor.
    Persistent(Id),
    /// Bytes, a set, or a number that no tensor needs.
    Opaque,
}

/// The values of a pickle and the one that it is of.
pub(super) struct Pickle<'a> {
    pub(super) values: Vec<Value<'a>>,
    pub(super) root: Id,
}

impl<'a> Pickle<'a> {
    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        // The machine hands out no number before the value is there.
        &self.values[id as usize]
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The elements of a tuple or list.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Sizes or strides: a tuple of numbers, or `torch.Size` of one.
    pub(super) fn counts(&self, id: Id) -> Reading<Vec<usize>> {
        /// More axes than torch's kernels take.
        const MOST: usize = 64;
        let id = match self.call(id) {
            Some(("torch", "Size", &[inner])) => inner,
            _ => id,
        };
        let items = self.sequence(id).filter(|items| items.len() <= MOST);
        let counts = items.and_then(|items| items.iter().map(|&item| self.count(item)).collect());
        counts.ok_or_else(|| format!("has sizes or strides that are not up to {MOST} numbers from 0 on"))
    }

    /// Module and name.
    pub(super) fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.get(id) {
            Value::Global { module, name } => {
                Some((std::str::from_utf8(module).ok()?, std::str::from_utf8(name).ok()?))
            }
            _ => None,
        }
    }

    /// Module, name and arguments of what is called.
    pub(super) fn call(&self, id: Id) -> Option<(&'a str, &'a str, &[Id])> {
        match self.get(id) {
            Value::Call { callable, args } => {
                let (module, name) = self.global(*callable)?;
                Some((module, name, self.sequence(*args)?))
            }
            _ => None,
        }
    }

    /// Where the pairs of a mapping are: its own number, or that of the list which an `OrderedDict` of Python 2 is made from.
    pub(super) fn mapping(&self, id: Id) -> Option<Id> {
        match self.get(id) {
            Value::Dict(_) => Some(id),
            Value::Call { .. } => match self.call(id)? {
                ("collections", "OrderedDict", &[pairs]) if matches!(self.get(pairs), Value::List(_)) => Some(pairs),
                _ => None,
            },
            _ => None,
        }
    }

    /// The pairs of what [`Self::mapping`] found.
    pub(super) fn pairs(&self, mapping: Id) -> impl Iterator<Item = (Id, Id)> {
        let (dict, list): (&[(Id, Id)], &[Id]) = match self.get(mapping) {
            Value::Dict(pairs) => (pairs, &[]),
            Value::List(items) => (&[], items),
            _ => (&[], &[]),
        };
        let listed = list.iter().filter_map(|&item| match self.sequence(item)? {
            &[key, value] => Some((key, value)),
            _ => None,
        });
        dict.iter().copied().chain(listed)
    }

    /// What a value is, for a message.
    pub(super) fn describe(&self, id: Id) -> String {
        match self.get(id) {
            Value::None => "nothing".to_owned(),
            Value::Bool(_) | Value::Int(_) | Value::Long(_) => "a number".to_owned(),
            Value::Text(_) => "text".to_owned(),
            Value::Tuple(items) | Value::List(items) => format!("a list of {}", items.len()),
            Value::Dict(pairs) => format!("a mapping of {}", pairs.len()),
            Value::Global { module, name } => format!("the name {}", dotted(module, name)),
            Value::Call { callable, .. } => match self.get(*callable) {
                Value::Global { module, name } => format!("an object of {}", dotted(module, name)),
                _ => "an object".to_owned(),
            },
            Value::Persistent(_) => "a storage".to_owned(),
            Value::Opaque => "a value".to_owned(),
        }
    }
}

/// `module.name`, shortened: a file can hold any text.
fn dotted(module: &[u8], name: &[u8]) -> String {
    format!("{}.{}", shown(module), shown(name))
}

/// Text of a file in a message of ours.
pub(super) fn shown(text: &[u8]) -> String {
    const MOST: usize = 80;
    let shown: String = String::from_utf8_lossy(&text[..text.len().min(MOST)]).escape_debug().collect();
    if text.len() > MOST { shown + "…" } else { shown }
}
