module example.com/go-invoice

go 1.24
