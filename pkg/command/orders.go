package command

// OrdersVariable names the variable in which a stage finds the number of a file descriptor:
// a pipe, from which it reads the orders of whoever started it, a byte each.
//
// Signals cannot be passed on without being doubled. Ctrl-C on a terminal reaches all
// processes of a pipe, and so does SIGTERM of a service manager, but a kill reaches only
// the one that was meant; and a second signal means something else than the first. An order
// says how far to go, and saying it again changes nothing. When the pipe is closed, the
// other side is dead, and that is [StopProperly].
const OrdersVariable = "KBK_ORDERS"

// The orders, and what the first and the second signal mean.
const (
	StopProperly = 1 // a source ends its stream properly, the others read to its end
	StopAtOnce   = 2
)
