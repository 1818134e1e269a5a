//! The way from an object's root to where a walker is; text only when something is to be said.

/// A step and those before it.
#[derive(Clone, Copy)]
pub(super) enum Trail<'a> {
    Root,
    /// A declared field, or any key where nothing is declared.
    Field(&'a Self, &'a str),
    /// An entry of a map.
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl Trail<'_> {
    /// `spec.containers[0].name`.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        self.write(&mut path, true);
        path
    }

    /// `spec.containers.name`: as Go's type errors show it, without indexes and map keys.
    pub(super) fn fields(&self) -> String {
        let mut path = String::new();
        self.write(&mut path, false);
        path
    }

    fn write(&self, path: &mut String, all: bool) {
        match self {
            Self::Root => {}
            Self::Field(parent, name) => {
                parent.write(path, all);
                push_name(path, name);
            }
            Self::Key(parent, name) => {
                parent.write(path, all);
                if all {
                    push_name(path, name);
                }
            }
            Self::Index(parent, index) => {
                parent.write(path, all);
                if all {
                    path.push_str(&format!("[{index}]"));
                }
            }
        }
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}
