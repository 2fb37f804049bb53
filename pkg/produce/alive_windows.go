package produce

import (
	"errors"

	"golang.org/x/sys/windows"
)

// alive tells whether a process runs on this host.
func alive(pid int) bool {
	process, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return !errors.Is(err, windows.ERROR_INVALID_PARAMETER) // else there is one that cannot be looked at
	}
	defer windows.CloseHandle(process)
	ended, err := windows.WaitForSingleObject(process, 0) // one that has ended can be opened for a while
	return err != nil || ended != windows.WAIT_OBJECT_0
}
