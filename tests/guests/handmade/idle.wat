;; Does nothing wrong: what is refused beside it is refused for its own reason.
(func $provoked (param i32))
