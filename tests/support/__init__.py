"""What several tests share: processes, a real containerd, images, waiting."""
