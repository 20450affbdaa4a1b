;; Asks for what nobody has granted. Refused at load.
(component (import "sluicegate:test/secrets" (instance (export "reveal" (func)))))
