//! Why one record cannot become a row. Made only on the cold path, and boxed so that results stay one word.
pub(super) type Outcome<T = ()> = Result<T, Box<Fault>>;

#[derive(Debug)]
pub(super) struct Fault {
    /// Names of the columns and fields on the way, innermost first.
    path: Vec<String>,
    message: String,
}

impl Fault {
    #[cold]
    pub fn syntax(message: String) -> Box<Self> {
        Box::new(Self { path: Vec::new(), message })
    }

    #[cold]
    pub fn value(message: String) -> Box<Self> {
        Box::new(Self { path: Vec::new(), message })
    }

    #[cold]
    pub fn within(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.path.push(name.to_string());
        self
    }

    #[cold]
    pub fn of_key(mut self: Box<Self>) -> Box<Self> {
        self.message = format!("the record's key: {}", self.message);
        self
    }

    /// One line; data that it quotes is short and has no control characters.
    pub fn line(&self) -> String {
        if self.path.is_empty() {
            return self.message.clone();
        }
        let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
        format!("column {:?}: {}", path.join("."), self.message)
    }
}
