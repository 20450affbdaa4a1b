;; Imports something by a name that breaks the line of a log, and turns the direction of its text. Refused at load.
(core module $m (import "x\0d\0aINFO forged \u{202e}" "f" (func)))
(core instance (instantiate $m))
