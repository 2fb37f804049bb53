//go:build !kbk_dozen

package store

import _ "github.com/rclone/rclone/backend/all"
